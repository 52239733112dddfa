"""Building blocks that families share, one idea a file."""
