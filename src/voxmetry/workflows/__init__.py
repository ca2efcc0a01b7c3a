"""One module a verb: what stands behind the command line, each a straight path of function calls."""
