from bptt.kernels._baseline import *
from bptt.kernels._baseline import __all__ as __all__
