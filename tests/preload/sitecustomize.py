"""On the path of the notebooks' workers only. A worker runs many notebooks, and fastai, once one of them has imported it, changes how
fastcore compares tensors in all that follow: imported at the start, every order of notebooks gives the same result. The processes that
notebooks start inherit the path and are left alone."""
import sys
if any('nbdev_test' in a for a in sys.orig_argv): import fastai.torch_core
