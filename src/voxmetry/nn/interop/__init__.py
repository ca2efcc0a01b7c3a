"""Models of other frameworks: import of nnU-Net v2 folders and MONAI bundles, export to ONNX, TorchScript and MONAI."""

from voxmetry.nn.interop.arrive import ImportOptions, import_model

__all__ = ["ImportOptions", "import_model"]
