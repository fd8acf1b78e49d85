"""From nnU-Net's preprocessed folder to the tensors that networks see, and back."""
