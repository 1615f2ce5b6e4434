"""A ledger on a database server: PostgreSQL, over psycopg's own connections.

Nothing here is loaded where a ledger is a file: the driver need not be installed then.
"""
