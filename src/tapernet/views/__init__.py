"""How curves of result files are drawn and tabulated: one file each, one line in `tapernet.report.VIEWS`."""
