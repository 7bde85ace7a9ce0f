/* SPDX-License-Identifier: MIT */
#include "vmm/layout.h"

#include <errno.h>

int layout_init(struct layout *layout, uint64_t ram_size, unsigned int address_bits)
{
	uint64_t low = ram_size < LAYOUT_HOLE_BASE ? ram_size : LAYOUT_HOLE_BASE;
	uint64_t half =
		address_bits > 32 && address_bits <= 64 ? 1ull << (address_bits - 1) : 0;

	*layout = (struct layout){
		.low_size = low,
		.high_size = ram_size - low,
		.mem64_base = half,
		.mem64_size = half,
	};
	if (layout->high_size > half || LAYOUT_HIGH_BASE > half - layout->high_size)
		return -E2BIG;
	return 0;
}
