"""The operations of a decoder, one file each: reference, CPU path, Triton kernel. Knows no model."""
