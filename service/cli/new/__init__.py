"""The command `items new`: the files of a new resource, from templates."""
