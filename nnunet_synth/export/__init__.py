"""Exports without the plugin: a bank as an nnU-Net raw dataset, a trained folder as a model of plain nnU-Net."""
