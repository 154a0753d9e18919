"""Every check runs in a quick interpreter."""

import tests.kernels.quick_interpreter as quick_interpreter

__all__ = ["quick_interpreter"]
