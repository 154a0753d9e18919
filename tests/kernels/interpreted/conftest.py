"""Every check runs in a quick interpreter.

It changes Triton for the whole process, and pytest reads this file in every worker that collects
all tests; there the compiled kernels need Triton as it is.
"""

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    import tests.kernels.quick_interpreter as quick_interpreter

    __all__ = ["quick_interpreter"]
