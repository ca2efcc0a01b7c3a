#!/bin/sh
# Make niivue.min.js.gz again: src/voxmetry/report/niivue/build.sh (needs npm and gzip).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-audit --no-fund @niivue/niivue@0.69.0 esbuild@0.28.2 gl-matrix@3.4.4 nifti-reader-js@0.8.0 \
  fflate@0.8.3 zarrita@0.5.4 array-equal@1.0.2 @ungap/structured-clone@1.4.0 @lukeed/uuid@2.0.1
echo 'export { Niivue, NVImage, NVMesh, SLICE_TYPE } from "@niivue/niivue";' > entry.js
echo 'export default class { static fromConfig() { throw new Error("codec left out"); } }' > none.js
npx esbuild entry.js --bundle --minify --format=iife --global-name=niivue --legal-comments=inline --outfile=niivue.min.js \
  --alias:numcodecs/zstd=./none.js --alias:numcodecs/blosc=./none.js --alias:numcodecs/lz4=./none.js \
  --alias:numcodecs/zlib=./none.js --alias:numcodecs/gzip=./none.js
gzip -9 -n -c niivue.min.js > "$here/niivue.min.js.gz"
