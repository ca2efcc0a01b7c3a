"""What people draw in other programs: slice annotations, ITK-SNAP's labels, MONAI Label's folder."""
