"""What the AMX unit, where there is one, takes in the tests, which are mostly small: all but the least."""

EVERYWHERE = {
    "numbers": 256,
    "rows": 1,
    "forward_numbers": 256,
    "input_numbers": 256,
    "back_numbers": 256,
    "terms": 1,
}
