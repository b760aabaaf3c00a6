"""Program to program: one file a pass, and the pipeline that runs, records and checks them."""
