#!/bin/sh
# Pictures of a report with headless Chromium: docs/pictures/shoot.sh REPORT.html [FOLDER]
# Writes report-desktop.png, report-dark.png, report-phone.png (390 px wide) and report-print-N.png (needs pdftoppm).
set -eu
report=$(realpath "$1")
out=$(realpath "${2:-$(dirname "$0")}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

browse() {
  "${CHROMIUM:-chromium}" --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --hide-scrollbars --user-data-dir="$work/profile" "$@" 2>/dev/null
}

browse --window-size=1280,1600 --screenshot="$out/report-desktop.png" "file://$report"
browse --window-size=1280,1600 --blink-settings=preferredColorScheme=0 --screenshot="$out/report-dark.png" "file://$report"
# A window is at least 500 px wide, so the phone is a frame inside one.
cp "$report" "$work/report.html"
printf '<body style="margin:0;background:#777"><iframe src="report.html" width="390" height="1600" style="border:0"></iframe>' \
  > "$work/phone.html"
browse --window-size=500,1600 --screenshot="$out/report-phone.png" "file://$work/phone.html"
browse --print-to-pdf="$work/report.pdf" --no-pdf-header-footer "file://$report"
pdftoppm -r 80 -png "$work/report.pdf" "$out/report-print"
