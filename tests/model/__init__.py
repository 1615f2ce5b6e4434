"""A model of several replicas on one database, looked through to the end.

What replicas of snaprotd may do to each other is decided by a few rules. Here these rules stand as small pure
functions, with two replicas, one rotation and time in small whole steps, and `search` goes through *everything* that
may happen: no state that can be reached is left out, and the first broken promise is reached by the shortest way. Two
models share the database, the leases and what may befall them (`leases`):

- `create`: at most one snapshot of a slot, never two requests at one time, and each slot gets one;
- `power`: a server that we stopped runs in the end, no promise is forgotten, and nobody starts a server in the middle
  of the snapshot of a living rotation.

*What may happen.* Each replica looks, saves, asks, renews and takes over in any order and at any time; it is frozen
(past its lease or not), cut off from the database, or killed, and begins anew without a memory. A request is carried
out at once, late (for `settle`, whatever has become of its sender) or never, and its answer may be lost. A commit is
done, and nobody hears of it. The database fails over once, and the last commits are lost. A clock is a little fast.
Each of these befalls them once at the most, and so many together as the test says. A replica renews its lease in time
unless something keeps it from that; all else it may put off for ever.

*What is checked.* That no step breaks a promise, and that from every state the promised end can still be reached with
no more harm: who has forgotten a promise cannot keep it. That a replica which could go on does go on is not checked
here.

*How it is known to see anything.* Each rule can be switched off (`leases.Rules`), and must then be broken by a trace;
each kind of event must have been taken, and as many states been seen as when it was written. A rule that another makes
superfluous is told as such.

*Leases.* A counter in the row is kept only as "the same as I saw" or "another": that is all that is asked of it. A
replica that holds nothing looks at the row at each step, and takes over what has stood for lease and margin by its
own count. A failover gives back an older row, which looks as it did: so what was seen under another timeline counts
no more, a lease that ran out is not renewed under another timeline, and the timeline stands in the database too, for
who begins after that.

*Ages.* What is open in a row ages from its save on, which is the most that may be counted; the ledger counts from the
take-over on, and waits longer.

`test_rules.py` has the table of all rules: which of them a model holds, and by which test each of the others is held.
"""
