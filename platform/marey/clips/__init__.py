"""Video in, clips out: the table of clip rows, the order of an epoch, decoding, augmentation, batches."""
