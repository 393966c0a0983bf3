//go:build ignore

// What gives a service with a fixed port in its code another one. See port_linux.go.
//
// Source: struct bpf_sock_addr of the kernel's include/uapi/linux/bpf.h, and bpf-helpers(7).

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SOCK_STREAM 1

volatile const __u32 asked; /* network order, as user_port has it */
volatile const __u32 given;

static __always_inline int instead(struct bpf_sock_addr *a)
{
	if (a->type == SOCK_STREAM && a->user_port == asked)
		a->user_port = given;
	return 1;
}

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *a) { return instead(a); }

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *a) { return instead(a); }

/* A service that talks to itself finds itself. */
SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *a)
{
	if ((bpf_ntohl(a->user_ip4) >> 24) == 127)
		return instead(a);
	return 1;
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *a)
{
	if (!a->user_ip6[0] && !a->user_ip6[1] && !a->user_ip6[2] && a->user_ip6[3] == bpf_htonl(1))
		return instead(a);
	return 1;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
