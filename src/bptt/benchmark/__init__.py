"""Measure bptt beside other implementations of the same layer, for ``bptt bench`` and the folder bench.

Nothing else imports this.  `rows` says what is run, `problem` makes the numbers and checks results against
what `truth` computes, `peers` holds the implementations, `timing` times them in rotation in a process that
`machine` has pinned, `measure` does all of this, `results` keeps and shows what came out.
"""
