"""A trained model as a submission to a challenge: Grand Challenge's container folder, or nnU-Net's zip."""
