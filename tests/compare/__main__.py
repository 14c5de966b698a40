"""python3 -m tests.compare"""

from tests import output
from tests.compare.compare import main

output.run(main, "compare")
