"""Everything that touches image files: readers, soft edge maps, the CASIA v2.0 builder, input."""
