"""The help text of vzctl(8)."""

from __future__ import annotations

USAGE = """\
vzctl version 5.0
Usage: vzctl [options] <command> <ctid> [parameters]

vzctl create <ctid> [--ostemplate <name>] [--config <name>] [--layout overlay|simfs]
   [--private <path>] [--root <path>] [--ipadd <addr>] [--hostname <name>]
   [--name <name>] [--description <text>]
vzctl start <ctid> [--force] [--wait] [--skip-remount]
vzctl destroy | mount | umount | status <ctid>
vzctl stop <ctid> [--fast] [--skip-umount]
vzctl restart <ctid> [--force] [--wait] [--fast]
vzctl set <ctid> [--save] [--force] [--setmode restart|ignore]
   [--ipadd <addr>] [--ipdel <addr>|all] [--hostname <name>]
   [--nameserver <addr>] [--searchdomain <name>]
   [--onboot yes|no] [--bootorder <N>] [--disabled yes|no] [--stop-timeout <s>]
   [--userpasswd <user>:<passwd>] [--name <name>] [--description <text>]
   [--cpuunits <N>] [--cpulimit <N>[%]] [--cpus <N>] [--cpumask <cpus>|auto|all]
   [--nodemask <nodes>|all] [--numproc <N>] [--ram <bytes>] [--swap <bytes>]
   [--capability <name>:on|off ...] [--features <name>:on|off ...]
   [--devices b|c:major:minor|all:[r][w]] [--devnodes <device>:[r][w]|none]
   [--netif_add <ifname[,mac,host_ifname,host_mac,bridge]>] [--netif_del <ifname>|all]
   [--ifname <ifname> [--mac <mac>] [--host_ifname <name>] [--host_mac <mac>]
    [--bridge <bridge>] [--mac_filter on|off]]
   [--netdev_add <ifname>] [--netdev_del <ifname>]
    [--netfilter disabled|stateless|stateful|full]
    [--applyconfig <name>] [--ostemplate <name>] [--mount_opts <opts>]
vzctl chkpnt <ctid> [--dumpfile <file>] [--keep-running]
   [--suspend | --dump | --resume | --kill]
vzctl restore <ctid> [--dumpfile <file>] [--skip-remount] [--skip_arpdetect]
   [--undump | --resume | --kill]
vzctl check <ctid> [--migrate [<host>] [--ssh <options>]]
vzctl exec | exec2 <ctid> <command> [arg ...]
vzctl enter <ctid> [--exec <command> [arg ...]]
vzctl runscript <ctid> <script>
vzctl console <ctid> [<N>]
vzctl --help | --version

Options: --quiet --verbose --skiplock, before the command.  See vzctl(8)."""
