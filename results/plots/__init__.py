"""Pictures, one function each, from the tidy frames of one setting and its grid."""
