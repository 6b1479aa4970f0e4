"""Tests of betterdb-agent-cache's names on tiercache."""
