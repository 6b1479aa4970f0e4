"""Fast tests of codecs, tiers and options on fakeredis, without a server and without scripts, pub/sub or faults."""
