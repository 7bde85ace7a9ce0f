/* SPDX-License-Identifier: MIT */
#include "vmm/net.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"

/* FNV-1a: a guest's address must be the same each time, not secret. */
static uint64_t hash(uint64_t h, const char *text)
{
	for (; *text; text++)
		h = (h ^ (uint8_t)*text) * 0x100000001b3ull;
	return h;
}

/*
 * Who makes no choice gets an address that stays (a guest names interfaces by it, a DHCP server
 * remembers it), and is another on another host, on another interface, and on the next card.
 */
static void make_up_mac(uint8_t *mac, const char *card, const char *backend)
{
	char machine_id[64] = "";
	uint64_t h = 0xcbf29ce484222325ull;

	if (file_read_line("/etc/machine-id", machine_id, sizeof(machine_id)) < 0)
		log_debug("%s: this host has no /etc/machine-id", card);
	h = hash(hash(hash(h, machine_id), backend), card);
	for (unsigned int i = 0; i < VIRTIO_NET_MAC_SIZE; i++)
		mac[i] = (uint8_t)(h >> (8 * i));
	mac[0] = (mac[0] & 0xfc) | 0x02; /* one station's, locally administered */
}

static int open_stream(struct net *net, struct event_loop *loop,
		       const struct net_config *config)
{
	int fd = -1;
	int r = config->kind == NET_PASST
			? passt_start(&net->passt, loop, net->name, "passt", &fd)
			: passt_connect(net->name, config->name, &fd);

	if (r < 0)
		return r;
	r = net_stream_init(&net->stream, &fd, "passt");
	return r < 0 ? log_err(r, "%s", net->name) : 0;
}

static int open_backend(struct net *net, struct event_loop *loop,
			const struct net_config *config, struct net_backend **ret)
{
	int fd = config->fd;

	switch (config->kind) {
	case NET_TAP:
		*ret = &net->tap.backend;
		return net_tap_open(&net->tap, net->name, config->name,
				    config->queues ? config->queues : 1);
	case NET_FD: *ret = &net->tap.backend; return net_tap_adopt(&net->tap, net->name, &fd);
	case NET_PASST:
	case NET_PASST_RUNNING: break;
	}
	*ret = &net->stream.backend;
	return open_stream(net, loop, config);
}

int net_open(struct net *net, struct memory_map *map, struct event_loop *loop,
	     unsigned int index, const struct net_config *config)
{
	struct virtio_net_setup setup = { .name = net->name, .vhost = config->vhost };
	struct net_backend *backend;

	*net = (struct net){ 0 };
	(void)snprintf(net->name, sizeof(net->name), "net%u", index);
	int r = open_backend(net, loop, config, &backend);
	if (r < 0)
		goto fail;
	memcpy(setup.mac, config->mac, sizeof(setup.mac));
	if (!config->has_mac)
		make_up_mac(setup.mac, net->name, backend->name);
	r = virtio_net_init(&net->card, map, loop, backend, &setup);
	if (r < 0)
		goto fail;
	log_info("%s: %s, %u queue%s%s, address %02x:%02x:%02x:%02x:%02x:%02x", net->name,
		 backend->name, backend->nr_pairs, backend->nr_pairs == 1 ? "" : "s",
		 net->card.vhost ? ", vhost-net" : "", setup.mac[0], setup.mac[1], setup.mac[2],
		 setup.mac[3], setup.mac[4], setup.mac[5]);
	return 0;
fail:
	net_close(net);
	return r;
}

void net_close(struct net *net)
{
	virtio_net_finish(&net->card);
	net_stream_finish(&net->stream);
	net_tap_finish(&net->tap);
	passt_stop(&net->passt);
	*net = (struct net){ 0 };
}
