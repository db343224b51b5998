"""The web page: `dirformer app`. Layout in `page`, the work behind it in `work`, the server in `server`."""
