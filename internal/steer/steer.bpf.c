//go:build ignore

// The part of steer that runs in the kernel. See steer.go for what it is for and kernel.go for who fills the maps.
//
// Sources: Documentation/bpf/prog_sk_lookup.rst (choosing the socket), map_sockmap.rst (sockets in maps, sk_msg) and
// map_sk_storage.rst (values that belong to a socket) of the kernel's tree, and RFC 9112, sections 4 and 9.6.

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define AF_INET 2
#define IPPROTO_TCP 6
#define TCP_ESTABLISHED 1
#define TCP_FIN_WAIT1 4
#define TCP_CLOSE_WAIT 8

#define SLOTS 1024    /* listening sockets on one machine */
#define BUCKETS 1024  /* of a service: 0.1 % each */
#define RESCUES 8     /* sockets tried when the chosen one is gone */
#define NONE 0xffff   /* no slot */

/* Latencies: eight steps to each doubling from 2^FIRST ns on; the first bucket holds what is shorter. */
#define FIRST 16
#define OCTAVES 22
#define HIST (2 + 8 * OCTAVES)
#define CLASSES 6

struct address {
	__u32 ip[4];  /* network order, IPv4 mapped into IPv6; zero for every address */
	__u32 port;   /* host order */
};

struct service {
	__u32 sticky;            /* 1: the bucket follows the client's address */
	__u16 rescue[RESCUES];   /* slots, NONE behind the last */
	__u16 table[BUCKETS];    /* bucket -> slot; NONE leaves the connection to whoever listens there */
};

/* placed belongs to a listening socket and is inherited by the connections that it accepts. The kernel does not write it. */
struct placed {
	__u64 owner;    /* key of counts */
	__u32 own;      /* the port at which the service listens itself: who connects there was not steered */
	__u32 drain;    /* 1: each answer is told to be the last one */
};

/* What a connection speaks. */
#define UNKNOWN 0
#define HTTP 1
#define OTHER 2   /* or encrypted: nothing of it is counted or changed */
#define UNSURE 3  /* since was guessed of a connection that was there before */

/* talk is how far a connection is. Nobody but the kernel writes it, but for the first value: a write from outside could undo
 * what happens at that moment. */
struct talk {
	__u64 since;    /* when the last piece of a request was read that has no answer yet, ns; 0: there is none */
	__u32 speaks;
	__u32 ends;     /* 1: it is closed after what is under way */
};

struct counted {
	__u64 connections;
	__u64 nanos;
	__u64 aborted;   /* the client went away before the answer */
	__u64 unanswered;
	__u64 drained;   /* answers that were told to be the last one */
	__u64 classes[CLASSES];
	__u64 hist[HIST];
};

struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 512); __type(key, struct address); __type(value, struct service); } services SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_SOCKMAP); __uint(max_entries, SLOTS); __type(key, __u32); __type(value, __u64); } sockets SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_SK_STORAGE); __uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE); __type(key, int); __type(value, struct placed); } places SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_SK_STORAGE); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, int); __type(value, struct talk); } talks SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_HASH); __uint(map_flags, BPF_F_NO_PREALLOC); __uint(max_entries, SLOTS); __type(key, __u64); __type(value, struct counted); } counts SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_SOCKHASH); __uint(max_entries, 65536); __type(key, __u64); __type(value, __u64); } watched SEC(".maps");

/* mix spreads neighbouring addresses: the finalizer of MurmurHash3 (public domain). */
static __always_inline __u32 mix(__u32 h)
{
	h ^= h >> 16; h *= 0x85ebca6b;
	h ^= h >> 13; h *= 0xc2b2ae35;
	return h ^ h >> 16;
}

/* READ is a field of the context at a fixed offset: left to itself the compiler merges two reads into one of a computed address,
 * which the verifier refuses. */
#define READ(field) ({ __u32 v; asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(v) : "r"(ctx), "i"(__builtin_offsetof(struct bpf_sk_lookup, field))); v; })

static __always_inline int give(struct bpf_sk_lookup *ctx, __u32 slot)
{
	struct bpf_sock *sk = bpf_map_lookup_elem(&sockets, &slot);
	if (!sk)
		return 0; /* it was closed: the map forgot it by itself */
	long err = bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	return !err;
}

/* steer chooses the listening socket of a new connection. Without one the kernel goes on as if it were not there. */
SEC("sk_lookup")
int steer(struct bpf_sk_lookup *ctx)
{
	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	struct address a = {};
	a.port = ctx->local_port;
	struct service *s = bpf_map_lookup_elem(&services, &a);
	if (!s) {
		if (ctx->family == AF_INET) {
			a.ip[2] = bpf_htonl(0xffff);
			a.ip[3] = READ(local_ip4);
		} else {
			a.ip[0] = READ(local_ip6[0]); a.ip[1] = READ(local_ip6[1]);
			a.ip[2] = READ(local_ip6[2]); a.ip[3] = READ(local_ip6[3]);
		}
		s = bpf_map_lookup_elem(&services, &a);
		if (!s)
			return SK_PASS;
	}
	__u32 h;
	if (!s->sticky)
		h = bpf_get_prandom_u32();
	else if (ctx->family == AF_INET)
		h = mix(READ(remote_ip4));
	else
		h = mix(READ(remote_ip6[0]) ^ mix(READ(remote_ip6[1]) ^ mix(READ(remote_ip6[2]) ^ mix(READ(remote_ip6[3])))));
	__u32 slot = s->table[h & (BUCKETS - 1)];
	if (slot == NONE || give(ctx, slot))
		return SK_PASS;
	for (int i = 0; i < RESCUES; i++)
		if (s->rescue[i] != NONE && give(ctx, s->rescue[i]))
			return SK_PASS;
	return SK_PASS;
}

/* accepted takes the new connections of instances that are observed into the map whose sends are looked at. */
SEC("sockops")
int accepted(struct bpf_sock_ops *o)
{
	if (o->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && o->op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	struct bpf_sock *sk = o->sk;
	if (!sk)
		return 1;
	struct placed *p = bpf_sk_storage_get(&places, sk, 0, 0);
	if (!p || p->own == o->local_port)
		return 1;
	struct counted *c = bpf_map_lookup_elem(&counts, &p->owner);
	if (!c)
		return 1;
	if (o->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		c->connections++;
		bpf_sk_storage_get(&talks, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		__u64 cookie = bpf_get_socket_cookie(o);
		bpf_sock_hash_update(o, &watched, &cookie, BPF_ANY);
		bpf_sock_ops_cb_flags_set(o, o->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
		return 1;
	}
	struct talk *t = bpf_sk_storage_get(&talks, sk, 0, 0);
	if (!t || !t->since || t->speaks >= OTHER || o->args[0] != TCP_ESTABLISHED)
		return 1;
	if (o->args[1] == TCP_FIN_WAIT1) { /* the service closes what it owes an answer to */
		c->unanswered++;
		c->classes[0]++;
	} else { /* the client's end or reset came first */
		c->aborted++;
	}
	t->since = 0;
	t->ends = o->args[1] == TCP_CLOSE_WAIT; /* it may still read the answer */
	return 1;
}

struct sock;

/* received notes when a service read from a connection. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(received, struct sock *sk)
{
	struct talk *t = bpf_sk_storage_get(&talks, sk, 0, 0);
	if (t) {
		t->since = bpf_ktime_get_ns();
		if (t->speaks == UNSURE)
			t->speaks = UNKNOWN;
	}
	return 0;
}

static __always_inline __u32 bucket(__u64 d)
{
	__u32 top = 0;
	if (d >> FIRST == 0)
		return 0;
	if (d >> (FIRST + OCTAVES))
		return HIST - 1;
#pragma unroll
	for (int i = FIRST; i < FIRST + OCTAVES; i++)
		if (d >> i)
			top = i;
	return 1 + (top - FIRST) * 8 + ((d >> (top - 3)) & 7);
}

static const char last[19] = "Connection: close\r\n";

/* finish puts the header that ends a connection behind the status line. */
static __always_inline int finish(struct sk_msg_md *m)
{
	/* Its first piece may end within the status line: memory for what is sent is used up to the last 32 bytes of a page. */
	if (bpf_msg_pull_data(m, 0, m->size < 96 ? m->size : 96, 0))
		return 0;
	char *d = m->data, *e = m->data_end;
	__u32 end = 0;
	for (int i = 12; i < 96; i++) {
		if (d + i + 1 > e)
			break;
		if (d[i] == '\n') {
			end = i + 1;
			break;
		}
	}
	if (!end || bpf_msg_push_data(m, end, sizeof(last), 0))
		return 0;
	/* From here on there are bytes in the answer that must be filled. */
	if (bpf_msg_pull_data(m, end, end + sizeof(last), 0))
		return -1;
	d = m->data;
	e = m->data_end;
	if (d + sizeof(last) > e)
		return -1;
	__builtin_memcpy(d, last, sizeof(last));
	return 1;
}

static __always_inline int digit(char c)
{
	return c >= '0' && c <= '9';
}

/* status_line reports whether an HTTP/1 answer begins here. */
static __always_inline int status_line(char *d, char *e)
{
	return d + 13 <= e && d[0] == 'H' && d[1] == 'T' && d[2] == 'T' && d[3] == 'P' && d[4] == '/' && d[5] == '1' && d[6] == '.' && digit(d[7])
		&& d[8] == ' ' && digit(d[9]) && digit(d[10]) && digit(d[11]) && (d[12] == ' ' || d[12] == '\r' || d[12] == '\n');
}

/* answered looks at what a service sends: the beginning of an HTTP/1 answer is counted, and told to be the last one. */
SEC("sk_msg")
int answered(struct sk_msg_md *m)
{
	struct bpf_sock *sk = m->sk;
	if (!sk)
		return SK_PASS;
	struct talk *t = bpf_sk_storage_get(&talks, sk, 0, 0);
	if (!t || !t->since)
		return SK_PASS; /* more of an answer that began before */
	struct placed *p = bpf_sk_storage_get(&places, sk, 0, 0);
	char *d = m->data, *e = m->data_end;
	if (!p || t->speaks == OTHER || !status_line(d, e)) {
		/* Whatever it is, the client has its answer. Who does not begin with HTTP never speaks it; in the midst of an answer
		 * a service may read more of the request. */
		if (t->speaks == UNSURE)
			t->speaks = UNKNOWN;
		else if (t->speaks == UNKNOWN)
			t->speaks = OTHER;
		t->since = 0;
		return SK_PASS;
	}
	t->speaks = HTTP;
	__u32 class = d[9] - '0';
	if (class == 1) {
		if (d[10] != '0' || d[11] != '1')
			return SK_PASS; /* the answer itself is still to come */
		t->speaks = OTHER; /* from here on */
	}
	__u64 took = bpf_ktime_get_ns() - t->since;
	t->since = 0;
	__u64 owner = p->owner;
	__u32 drain = p->drain && class != 1 && d[7] == '1';
	struct counted *c = bpf_map_lookup_elem(&counts, &owner);
	if (c) {
		__u32 b = bucket(took);
		if (b < HIST)
			c->hist[b]++;
		if (class < CLASSES)
			c->classes[class]++;
		c->nanos += took;
	}
	if (drain) {
		int done = finish(m);
		if (done < 0)
			return SK_DROP;
		if (done)
			t->ends = 1;
		if (done && c)
			c->drained++;
	}
	return SK_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
