"""python3 -m tests.soak"""

from tests import output
from tests.soak.soak import main

output.run(main, "soak")
