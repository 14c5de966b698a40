"""python3 -m tests.bench"""

from tests import output
from tests.bench.bench import main

output.run(main, "bench")
