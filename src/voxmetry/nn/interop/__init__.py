"""Models of other frameworks: import of nnU-Net v2 folders and MONAI bundles, export to ONNX, TorchScript and MONAI."""

from voxmetry.nn.interop.export import export_model
from voxmetry.nn.interop.import_model import import_model
from voxmetry.nn.interop.imported import ImportOptions

__all__ = ["ImportOptions", "export_model", "import_model"]
