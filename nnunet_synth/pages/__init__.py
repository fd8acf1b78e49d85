"""What the pages of a bank and of a benchmark share: a page as data, its templates, number formats, and plot style."""
