"""What `python -m cl_func` does: comparisons of methods from a shell, with arguments that work for each of them."""
