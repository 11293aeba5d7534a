"""What came out: run directories -> tidy frames -> tables, plots, report. Reads files, imports no other room."""
