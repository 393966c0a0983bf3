package supervise

import "os"

// growPipe does nothing: macOS sizes its pipes by itself.
func growPipe(*os.File, int) {}
