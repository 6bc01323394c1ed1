"""``python -m featurecache``: the command line.

Python looks for modules in the current folder first, which may be one of untrusted data. The entry is removed before
anything else is imported, unless this package lies there. What Python imports before, such as ``runpy``, it still finds
there: the command ``featurecache`` and ``python -P -m featurecache`` never look there.
"""

import os
import sys

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):  # noqa: PTH120
        del sys.path[0]
    from featurecache.cli.app import main

    main()
