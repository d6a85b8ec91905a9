"""Backbones of other packages that are a ConvNeXt V2. Each file imports its package, and nothing imports them."""
