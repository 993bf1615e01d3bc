// The module's entry: what the program finds in it at run time.
