"""What the tests have the AMX unit do, where there is one: they are mostly small; it takes all but the least."""

EVERYWHERE = {
    "numbers": 256, "rows": 1, "forward_numbers": 256, "input_numbers": 256, "back_numbers": 256, "terms": 1,
}
