"""A mitmproxy script, loaded after the addon: as on a machine where no zstd library can be found."""

from force_stream.wire import encodings

encodings.ZSTD_LIBRARIES = ()
