from rundir.drawing import import_matplotlib

import_matplotlib()
