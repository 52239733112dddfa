"""Families of backbones, one a file, and the zoo that names their variants."""
