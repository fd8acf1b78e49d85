"""`python -m stylegan2_cond` is `stylegan2-cond`; torchrun starts it so."""

from stylegan2_cond.cli import main

main()
