"""Who is in the cluster, where a list of routers is not enough: a directory in redis.

It says where routers are, so that nodes dial them; it does not say who lives. That is between the two ends of
each line (``pagewire.mailbox``). Without redis the last known routers stand.
"""
