"""The store of a run.

| package     | what it does                                                                  |
|-------------|-------------------------------------------------------------------------------|
| `tables`    | the tables of `run.sqlite`: definition, rows, removal of old ones             |
| `writing`   | the writer: a queue and a thread that never stop the training                 |
| `reading`   | the reader: events, damage, and whether everything is known                   |
| `run_files` | the files next to the store: latches, acknowledgements, note, console output   |

`run_store` exports what most callers need.
"""
