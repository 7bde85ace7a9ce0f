/* SPDX-License-Identifier: MIT */
#include "vfio/config.h"

#include <errno.h>
#include <string.h>

#include <linux/pci_regs.h>

#include "base/log.h"

#define STANDARD_SIZE 256u
#define HEADER_SIZE PCI_STD_HEADER_SIZEOF
#define FIRST_EXTENDED 0x100u
#define MAX_STANDARD ((STANDARD_SIZE - HEADER_SIZE) / 4)
#define MAX_EXTENDED ((PCI_CONFIG_SIZE - FIRST_EXTENDED) / 8)

/* Not in the headers of Debian 12. */
#define EXT_CAP_VF_REBAR 0x24

static void emulate_16(struct vfio_config *config, unsigned int offset, uint16_t mask)
{
	config->emulated[offset] |= (uint8_t)mask;
	config->emulated[offset + 1] |= (uint8_t)(mask >> 8);
}

static void emulate_all(struct vfio_config *config, unsigned int offset, unsigned int size)
{
	memset(&config->emulated[offset], 0xff, size);
}

static void allow_32(struct pci_device *pci, unsigned int offset, uint32_t mask)
{
	for (unsigned int i = 0; i < 4; i++)
		pci->writable[offset + i] = (uint8_t)(mask >> (8 * i));
}

static void init_header(struct vfio_config *config, struct pci_device *pci,
			const struct vfio_irq *irq)
{
	unsigned int pin = pci->config[PCI_INTERRUPT_PIN];

	pci_set_16(pci, PCI_COMMAND, 0);
	emulate_16(config, PCI_COMMAND,
		   PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	pci_set_16(pci, PCI_STATUS,
		   pci_get_16(pci, PCI_STATUS) & (uint16_t)~PCI_STATUS_CAP_LIST);
	emulate_16(config, PCI_STATUS, PCI_STATUS_CAP_LIST);
	/* Each function gets a slot of its own, whatever it was part of. */
	pci->config[PCI_HEADER_TYPE] = PCI_HEADER_TYPE_NORMAL;
	emulate_all(config, PCI_HEADER_TYPE, 1);
	memset(&pci->config[PCI_BASE_ADDRESS_0], 0, 24);
	emulate_all(config, PCI_BASE_ADDRESS_0, 24);
	memset(&pci->config[PCI_ROM_ADDRESS], 0, 4);
	emulate_all(config, PCI_ROM_ADDRESS, 4);
	pci->config[PCI_CAPABILITY_LIST] = 0;
	emulate_all(config, PCI_CAPABILITY_LIST, 1);
	pci->config[PCI_INTERRUPT_LINE] = 0;
	if (irq->nr_intx == 0 || pin > 4)
		pci->config[PCI_INTERRUPT_PIN] = 0;
	emulate_all(config, PCI_INTERRUPT_LINE, 2);
}

/*
 * Capabilities. `at` is where one begins, `end` where the next does, or where there is no more: one
 * that is longer than that is hidden, since its registers would be another's header.
 */

static bool fits(const struct pci_device *pci, unsigned int at, unsigned int size,
		 unsigned int end)
{
	if (at + size <= end)
		return true;
	log_warn("vfio: %s: capability 0x%x at 0x%x is longer than its place: hiding it",
		 pci->name, pci->config[at], at);
	return false;
}

static bool add_pm(struct vfio_config *config, const struct pci_device *pci, unsigned int at,
		   unsigned int end)
{
	if (!fits(pci, at, PCI_PM_SIZEOF, end) || config->pm)
		return false;
	config->pm = at;
	config->has_pm_reset = !(pci_get_16(pci, at + PCI_PM_CTRL) & PCI_PM_CTRL_NO_SOFT_RESET);
	return true;
}

static unsigned int msi_size(uint16_t flags)
{
	unsigned int size =
		flags & PCI_MSI_FLAGS_64BIT ? PCI_MSI_DATA_64 + 2 : PCI_MSI_DATA_32 + 2;

	if (flags & PCI_MSI_FLAGS_MASKBIT)
		size += 10; /* two reserved bytes, mask bits, pending bits */
	return (unsigned int)align_up(size, 4);
}

static unsigned int log2_of(unsigned int n)
{
	return 31 - (unsigned int)__builtin_clz(n);
}

/* Fully ours: the kernel programs the hardware's from the eventfds it is given. */
static bool add_msi(struct vfio_config *config, struct pci_device *pci, unsigned int at,
		    unsigned int end, const struct vfio_irq *irq)
{
	uint16_t flags = pci_get_16(pci, at + PCI_MSI_FLAGS);
	unsigned int exponent = (flags & PCI_MSI_FLAGS_QMASK) >> 1;
	unsigned int size = msi_size(flags);
	bool wide = flags & PCI_MSI_FLAGS_64BIT;

	if (!fits(pci, at, size, end) || config->msi || irq->nr_msi == 0 || exponent > 5)
		return false;
	if (exponent > log2_of(irq->nr_msi))
		exponent = log2_of(irq->nr_msi);
	config->msi = at;
	config->msi_flags = (uint16_t)((flags & (PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT)) |
				       exponent << 1);
	emulate_all(config, at, size);
	pci->writable[at + PCI_MSI_FLAGS] = PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE;
	allow_32(pci, at + PCI_MSI_ADDRESS_LO, 0xfffffffc);
	if (wide)
		allow_32(pci, at + PCI_MSI_ADDRESS_HI, 0xffffffff);
	allow_32(pci, at + (wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 0xffff);
	if (flags & PCI_MSI_FLAGS_MASKBIT)
		allow_32(pci, at + (wide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32),
			 (uint32_t)((1ull << (1u << exponent)) - 1));
	vfio_config_reset(config, pci);
	return true;
}

/* The rest is msix_init()'s, once the BARs are there. */
static bool add_msix(struct vfio_config *config, const struct pci_device *pci, unsigned int at,
		     unsigned int end, const struct vfio_irq *irq)
{
	if (!fits(pci, at, MSIX_CAP_SIZE, end) || config->has_msix || irq->nr_msix == 0)
		return false;
	uint32_t table = pci_get_32(pci, at + PCI_MSIX_TABLE);
	uint32_t pba = pci_get_32(pci, at + PCI_MSIX_PBA);
	config->has_msix = true;
	config->msix = (struct msix_config){
		.cap_offset = at,
		.nr_vectors =
			(pci_get_16(pci, at + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1u,
		.table_bar = table & PCI_MSIX_TABLE_BIR,
		.table_offset = table & PCI_MSIX_TABLE_OFFSET,
		.pba_bar = pba & PCI_MSIX_PBA_BIR,
		.pba_offset = pba & PCI_MSIX_PBA_OFFSET,
	};
	emulate_all(config, at, MSIX_CAP_SIZE);
	return true;
}

/* These say something about a link, which an integrated endpoint does not have. */
static void hide_link(struct vfio_config *config, struct pci_device *pci, unsigned int at,
		      unsigned int end)
{
	for (unsigned int i = 0; i < 8; i += 4) {
		if (at + i + 4 > end)
			return;
		pci_set_32(pci, at + i, 0);
		emulate_all(config, at + i, 4);
	}
}

/* 1: shown. 0: hidden. -EOPNOTSUPP, logged: not an endpoint. */
static int add_pcie(struct vfio_config *config, struct pci_device *pci, unsigned int at,
		    unsigned int end)
{
	if (!fits(pci, at, PCI_EXP_DEVCTL, end))
		return 0;
	uint16_t flags = pci_get_16(pci, at + PCI_EXP_FLAGS);
	unsigned int version = flags & PCI_EXP_FLAGS_VERS;
	unsigned int type = (flags & PCI_EXP_FLAGS_TYPE) >> 4;
	if (pci_get_32(pci, at + PCI_EXP_DEVCAP) & PCI_EXP_DEVCAP_FLR)
		config->has_flr = true;
	if (type == PCI_EXP_TYPE_LEG_END)
		return 0; /* may need I/O and locks that a root complex endpoint must not */
	if (type != PCI_EXP_TYPE_ENDPOINT && type != PCI_EXP_TYPE_RC_END)
		return log_refuse(-EOPNOTSUPP,
				  "vfio: %s is a PCI Express port of type %u, not an endpoint",
				  pci->name, type);
	/* Some virtual functions say version 0, which there never was. */
	if (version == 0)
		version = 1;
	flags &= (uint16_t) ~(PCI_EXP_FLAGS_VERS | PCI_EXP_FLAGS_TYPE | PCI_EXP_FLAGS_SLOT);
	flags |= (uint16_t)(version | PCI_EXP_TYPE_RC_END << 4);
	pci_set_16(pci, at + PCI_EXP_FLAGS, flags);
	emulate_16(config, at + PCI_EXP_FLAGS, 0xffff);
	if (type == PCI_EXP_TYPE_RC_END)
		return 1; /* it has none */
	hide_link(config, pci, at + PCI_EXP_LNKCAP, end);
	if (version >= 2)
		hide_link(config, pci, at + PCI_EXP_LNKCAP2, end);
	return 1;
}

static void look_for_flr(struct vfio_config *config, const struct pci_device *pci,
			 unsigned int at)
{
	const uint8_t both = PCI_AF_CAP_TP | PCI_AF_CAP_FLR;

	if (at + PCI_AF_CAP < STANDARD_SIZE && (pci->config[at + PCI_AF_CAP] & both) == both)
		config->has_flr = true;
}

/* The offsets of the chain's links, in its order; no link twice, however it is linked. */
static unsigned int walk_standard(const struct pci_device *pci, uint8_t *offsets)
{
	bool seen[STANDARD_SIZE] = { false };
	unsigned int nr = 0;

	if (!(pci_get_16(pci, PCI_STATUS) & PCI_STATUS_CAP_LIST))
		return 0;
	unsigned int at = pci->config[PCI_CAPABILITY_LIST] & ~3u;
	while (at >= HEADER_SIZE && pci->config[at] != 0xff) {
		if (seen[at]) {
			log_warn(
				"vfio: %s: the capability list runs in a ring at 0x%x: cutting it",
				pci->name, at);
			break;
		}
		seen[at] = true;
		offsets[nr++] = (uint8_t)at;
		at = pci->config[at + 1] & ~3u;
	}
	return nr;
}

/* 1: to be shown. 0: to be hidden. < 0: the device cannot be assigned. */
static int add_standard(struct vfio_config *config, struct pci_device *pci, unsigned int at,
			unsigned int end, uint8_t id, const struct vfio_irq *irq,
			bool *is_express)
{
	int r = 1;

	switch (id) {
	case PCI_CAP_ID_PM: return add_pm(config, pci, at, end);
	case PCI_CAP_ID_MSI: return add_msi(config, pci, at, end, irq);
	case PCI_CAP_ID_MSIX: return add_msix(config, pci, at, end, irq);
	case PCI_CAP_ID_EXP:
		r = add_pcie(config, pci, at, end);
		*is_express = r > 0;
		return r;
	case PCI_CAP_ID_AF: look_for_flr(config, pci, at); return 1;
	case PCI_CAP_ID_EA: return 0; /* fixed addresses, of the host */
	default: return 1;
	}
}

/* Of the links, the one after `at` in the space; its end if there is none. */
static unsigned int end_of(const uint8_t *offsets, unsigned int nr, unsigned int at)
{
	unsigned int end = STANDARD_SIZE;

	for (unsigned int i = 0; i < nr; i++) {
		if (offsets[i] > at && offsets[i] < end)
			end = offsets[i];
	}
	return end;
}

static int init_standard(struct vfio_config *config, struct pci_device *pci,
			 const uint8_t *offsets, unsigned int nr, const struct vfio_irq *irq,
			 bool *is_express)
{
	/* From the tail, since a capability is linked in at the head. */
	for (unsigned int i = nr; i-- > 0;) {
		unsigned int at = offsets[i];
		unsigned int end = end_of(offsets, nr, at);
		uint8_t id = pci->config[at];
		int r = add_standard(config, pci, at, end, id, irq, is_express);
		if (r < 0)
			return r;
		emulate_all(config, at, 2);
		if (r > 0)
			pci_add_capability(pci, id, at);
	}
	return 0;
}

/* What needs more than this device, or changes what it is, is not shown. */
static bool shows_extended(unsigned int id)
{
	switch (id) {
	case 0:                    /* hidden by the kernel */
	case 0xffff:               /* not there */
	case PCI_EXT_CAP_ID_SRIOV: /* virtual functions are the host's to make */
	case PCI_EXT_CAP_ID_ARI:   /* functions of one device, which is taken apart here */
	case PCI_EXT_CAP_ID_ATS:   /* these four need an IOMMU in the guest */
	case PCI_EXT_CAP_ID_PRI:
	case PCI_EXT_CAP_ID_PASID:
	case PCI_EXT_CAP_ID_TPH:
	case PCI_EXT_CAP_ID_REBAR: /* a BAR's size is fixed while it is mapped */
	case EXT_CAP_VF_REBAR: return false;
	default: return true;
	}
}

static unsigned int walk_extended(const struct pci_device *pci, uint16_t *offsets)
{
	bool seen[PCI_CONFIG_SIZE / 4] = { false };
	unsigned int nr = 0;
	unsigned int at = FIRST_EXTENDED;

	while (at >= FIRST_EXTENDED && nr < MAX_EXTENDED) {
		uint32_t header = pci_get_32(pci, at);
		if (header == 0 || header == 0xffffffff)
			break;
		if (seen[at / 4]) {
			log_warn(
				"vfio: %s: the extended capability list runs in a ring at 0x%x: "
				"cutting it",
				pci->name, at);
			break;
		}
		seen[at / 4] = true;
		offsets[nr++] = (uint16_t)at;
		at = PCI_EXT_CAP_NEXT(header);
	}
	return nr;
}

/*
 * The chain has no pointer to its first link, which lies at 0x100 always: where that one is
 * hidden an empty one takes its place.
 */
static void init_extended(struct vfio_config *config, struct pci_device *pci)
{
	uint16_t offsets[MAX_EXTENDED];
	unsigned int nr = walk_extended(pci, offsets);
	uint32_t next = 0;

	if (nr == 0)
		pci_set_32(pci, FIRST_EXTENDED, 0);
	emulate_all(config, FIRST_EXTENDED, 4);
	for (unsigned int i = nr; i-- > 0;) {
		unsigned int at = offsets[i];
		uint32_t header = pci_get_32(pci, at) & 0xfffff; /* id and version */
		bool shown = shows_extended(PCI_EXT_CAP_ID(header));
		if (!shown)
			header = 0;
		if (shown || at == FIRST_EXTENDED)
			header |= next << 20;
		pci_set_32(pci, at, header);
		emulate_all(config, at, 4);
		if (shown)
			next = at;
	}
}

int vfio_config_init(struct vfio_config *config, struct pci_device *pci, const uint8_t *bytes,
		     unsigned int size, const struct vfio_irq *irq)
{
	uint8_t offsets[MAX_STANDARD];
	bool is_express = false;

	*config = (struct vfio_config){ 0 };
	if ((bytes[PCI_HEADER_TYPE] & 0x7f) != PCI_HEADER_TYPE_NORMAL) {
		return log_refuse(-EOPNOTSUPP,
				  "vfio: %s is a bridge; assign the devices behind it",
				  pci->name);
	}
	memcpy(pci->config, bytes, size);
	unsigned int nr = walk_standard(pci, offsets); /* before its head is cleared */
	init_header(config, pci, irq);
	int r = init_standard(config, pci, offsets, nr, irq, &is_express);
	if (r < 0)
		return r;
	if (is_express && size == PCI_CONFIG_SIZE) {
		init_extended(config, pci);
		return 0;
	}
	memset(&pci->config[STANDARD_SIZE], 0, PCI_CONFIG_SIZE - STANDARD_SIZE);
	emulate_all(config, STANDARD_SIZE, PCI_CONFIG_SIZE - STANDARD_SIZE);
	return 0;
}

void vfio_config_reset(const struct vfio_config *config, struct pci_device *pci)
{
	if (!config->msi)
		return;
	unsigned int size = msi_size(config->msi_flags);
	memset(&pci->config[config->msi + PCI_MSI_FLAGS], 0, size - PCI_MSI_FLAGS);
	pci_set_16(pci, config->msi + PCI_MSI_FLAGS, config->msi_flags);
}

uint32_t vfio_config_emulated(const struct vfio_config *config, unsigned int offset,
			      unsigned int size)
{
	uint32_t bits = 0;

	for (unsigned int i = 0; i < size; i++)
		bits |= (uint32_t)config->emulated[offset + i] << (8 * i);
	return bits;
}

bool vfio_config_touches_msi(const struct vfio_config *config, unsigned int offset,
			     unsigned int size)
{
	return config->msi &&
	       range_overlaps(offset, size, config->msi, msi_size(config->msi_flags));
}

bool vfio_config_touches_msix(const struct vfio_config *config, unsigned int offset,
			      unsigned int size)
{
	return config->has_msix &&
	       range_overlaps(offset, size, config->msix.cap_offset + PCI_MSIX_FLAGS, 2);
}

void vfio_config_get_msi(const struct vfio_config *config, const struct pci_device *pci,
			 struct vfio_msi *ret)
{
	unsigned int at = config->msi;
	uint16_t flags = pci_get_16(pci, at + PCI_MSI_FLAGS);
	unsigned int most = (flags & PCI_MSI_FLAGS_QMASK) >> 1;
	unsigned int exponent = (flags & PCI_MSI_FLAGS_QSIZE) >> 4;
	bool wide = flags & PCI_MSI_FLAGS_64BIT;

	*ret = (struct vfio_msi){
		.enabled = flags & PCI_MSI_FLAGS_ENABLE,
		.nr_vectors = 1u << (exponent < most ? exponent : most),
		.message.address = pci_get_32(pci, at + PCI_MSI_ADDRESS_LO),
		.message.data =
			pci_get_16(pci, at + (wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32)),
	};
	if (wide)
		ret->message.address |= (uint64_t)pci_get_32(pci, at + PCI_MSI_ADDRESS_HI)
					<< 32;
	if (flags & PCI_MSI_FLAGS_MASKBIT)
		ret->masked = pci_get_32(pci, at + (wide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32));
}

void vfio_config_set_msi_pending(const struct vfio_config *config, struct pci_device *pci,
				 uint32_t pending)
{
	uint16_t flags = config->msi_flags;

	if (flags & PCI_MSI_FLAGS_MASKBIT)
		pci_set_32(pci,
			   config->msi + (flags & PCI_MSI_FLAGS_64BIT ? PCI_MSI_PENDING_64
								      : PCI_MSI_PENDING_32),
			   pending);
}
