"""Worker processes (`worker`), who keeps them (`supervisor`), and the parent of `jobpipe dev` (`dev`)."""
