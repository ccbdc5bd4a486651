"""The programs of a batch's requests, as tables on the device of the model."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from affectron.errors import InputError
from affectron.interventions import MAX_PIECES, Program, Schedule
from affectron.models.layout import Site, device_of
from affectron.models.parallel import local_neurons

#: A step that no text reaches, and a length that none has.
NEVER = 2**62
# The column of the rows that the text's own tokens have, after those of the pieces.
_TEXT = MAX_PIECES


class ProgramTables:
    """Programs of P requests at S sites, up to ``capacity`` different ones at a time.

    Each site has a table of parameters with a row for each held program. Each request has, for each piece of its
    schedule, the generated token at which the piece begins, and the row of each site's table that holds from there on
    (-1: none). A further row of the table holds at the text's own tokens. All tensors keep their place on the device,
    so that a step which was compiled, or captured into a graph, serves whatever is assigned later.

    Attributes:
        programs: the P requests' programs.
        touched: positions of the sites that a held program touches.
        differing: positions of the sites where the programs of two requests differ in the prompt.
        changing: positions of the sites where the program of a request changes with the position in the text.
        splitting: positions of the sites where the program of a request differs between the text's own tokens and the
            rest of the prompt.

    Raises:
        InputError: as :meth:`assign`.
    """

    def __init__(
        self, sites: Sequence[Site], programs: Sequence[Program | Schedule | None], capacity: int | None = None
    ) -> None:
        self.programs: list[Program | Schedule | None] = [None] * len(programs)
        if capacity is None:
            capacity = max(len(programs), len(distinct(programs)))
        self._sites = sites
        self._held: list[Program | None] = [None] * capacity
        device = device_of(sites[0])
        # Tensors made in inference mode could not be changed outside of it.
        with torch.inference_mode(False):
            # fp32 [capacity, 4, F] of each site: scale, damping, floor, shift.
            self._tables = [torch.zeros(capacity, 4, site.neurons, device=device_of(site)) for site in sites]
            # The neurons that they hold: fewer once a forward shows that other processes compute the rest.
            self._neurons = [slice(0, site.neurons) for site in sites]
            # int64 [P, pieces]: the generated token at which a piece begins.
            self._starts = torch.full((len(programs), MAX_PIECES), NEVER, device=device)
            self._starts[:, 0] = -NEVER
            # int32 [S, P, pieces + 1]: the row of a site's table that a piece has, and that of the text's own tokens.
            self._rows = torch.full((len(sites), len(programs), MAX_PIECES + 1), -1, dtype=torch.int32, device=device)
        for tensor in (*self._tables, self._starts, self._rows):
            torch._dynamo.mark_static_address(tensor)  # a captured graph reads it in its place, without a copy
        self.assign(programs)

    @property
    def device(self) -> torch.device:
        return self._tables[0].device

    def assign(self, programs: Sequence[Program | Schedule | None]) -> None:
        """Set the programs of all requests: check them, then write those that differ from the present ones.

        Raises:
            InputError: more programs than ``capacity``, a program that touches a site which the model lacks or a
                neuron beyond its width; nothing has changed then.
        """
        needed = distinct(programs)
        if len(needed) > len(self._held):
            raise InputError(
                f"capacity is {len(self._held)}, expected at least {len(needed)}: the different programs that are "
                "wanted at a time, schedules counting each of theirs"
            )
        parameters = {program: self._parameters(program) for program in needed if program not in self._held}
        for row, program in enumerate(self._held):
            if program not in needed:
                self._held[row] = None
        for program, by_position in parameters.items():
            row = self._held.index(None)
            self._held[row] = program
            for position, values in by_position.items():
                self._tables[position][row].copy_(values)
        for request, (old, new) in enumerate(zip(self.programs, programs, strict=True)):
            if old is not new:
                self._point(request, new)
        self.programs = list(programs)
        self.touched = frozenset(
            position
            for position, site in enumerate(self._sites)
            if any(program is not None and _touches(program, site) for program in self._held)
        )
        self.differing = self._where_several([{_pieces(program)[0][1] for program in programs}])
        self.changing = self._where_several([{piece for _, piece in _pieces(program)} for program in programs])
        self.splitting = self._where_several([{_pieces(program)[0][1], _of_text(program)} for program in programs])

    def _parameters(self, program: Program) -> dict[int, Tensor]:
        """The parameters [4, F] of each site that the program touches, by the site's position."""
        check_sites(program, self._sites)
        return {
            position: torch.from_numpy(program.table(site.name, site.neurons)[:, self._neurons[position]])
            for position, site in enumerate(self._sites)
            if _touches(program, site)
        }

    def _point(self, request: int, program: Program | Schedule | None) -> None:
        """Write the rows of the tables that hold for a request, and the generated tokens from which they do."""
        starts = torch.full((MAX_PIECES,), NEVER)
        rows = torch.full((len(self._sites), MAX_PIECES + 1), -1, dtype=torch.int32)
        acting = {_TEXT: _of_text(program)}
        for number, (start, piece) in enumerate(_pieces(program)):
            starts[number] = start
            acting[number] = piece
        for number, piece in acting.items():
            if piece is not None:
                row = self._held.index(piece)
                for position, site in enumerate(self._sites):
                    if _touches(piece, site):
                        rows[position, number] = row
        self._starts[request].copy_(starts)
        self._rows[:, request].copy_(rows)

    def _where_several(self, groups: Sequence[Collection[Program | None]]) -> frozenset[int]:
        """Positions of the sites at which the programs of some group do not all do the same."""
        several = [group for group in groups if len(group) > 1]

        def acting(group: Collection[Program | None], site: Site) -> set[Program | None]:
            return {program if program is not None and _touches(program, site) else None for program in group}

        return frozenset(
            position
            for position, site in enumerate(self._sites)
            if any(len(acting(group, site)) > 1 for group in several)
        )

    def table(self, position: int, h: Tensor) -> Tensor:
        """fp32 [capacity, 4, F]: the table of a site for the neurons that the activation ``h`` [..., F] holds."""
        table = self._tables[position]
        if table.device != h.device:  # the model was moved since
            table = self._tables[position] = table.to(h.device)
        if table.shape[-1] != h.shape[-1]:
            neurons = self._neurons[position] = local_neurons(self._sites[position], h.shape[-1])
            table = self._tables[position] = table[..., neurons].contiguous()
        return table

    def rows(self, batch: int, steps: Tensor, own: Tensor | None = None) -> tuple[Tensor, ...]:
        """The table row of each of the B·T flattened rows of a text, for each site: int32 [B·T], -1 if it is untouched.

        Args:
            batch: B, a multiple of P; the rows of a request are next to one another.
            steps: int64 [T], the number of the generated token that each token is; below 0 in the prompt.
            own: bool [B, T], whether a token of the prompt is one of the text's own; None if no program depends on it.
        """
        if self._rows.device != self.device:  # the model was moved since
            self._rows, self._starts = self._rows.to(self.device), self._starts.to(self.device)
        piece = (steps[:, None] >= self._starts[:, None]).sum(-1) - 1  # [P, T]
        (requests, length), sites = piece.shape, len(self._sites)
        rows = self._rows.gather(2, piece.expand(sites, requests, length))
        rows = rows[:, :, None].expand(sites, requests, batch // requests, length)
        if own is not None:
            own = own.view(requests, batch // requests, length) & (piece == 0)[:, None]
            rows = torch.where(own, self._rows[:, :, _TEXT, None, None], rows)
        return rows.reshape(sites, batch * length).contiguous().unbind(0)  # reshape may leave a stride of 0

    def common_row(self, position: int) -> Tensor:
        """The table row of a site where all requests have one program: int32 scalar."""
        return self._rows[position, 0, 0]


def check_sites(program: Program, sites: Sequence[Site]) -> None:
    """Raise InputError if the program touches a site that is none of ``sites``."""
    known = [site.name for site in sites]
    for name in program.sites:
        if name not in known:
            raise InputError(
                f"program {program.name!r} touches site {name!r}, which the model does not have "
                f"(it has {len(known)}: {known[0]} to {known[-1]})"
            )


def _pieces(program: Program | Schedule | None) -> tuple[tuple[int, Program | None], ...]:
    """(first generated token, program) of each piece; that of the prompt begins before all tokens."""
    if isinstance(program, Schedule):
        return ((-NEVER, program.prompt), *program.generated)
    return ((-NEVER, program),)


def _of_text(program: Program | Schedule | None) -> Program | None:
    """The program of the text's own tokens."""
    return program.text if isinstance(program, Schedule) else program


def distinct(programs: Sequence[Program | Schedule | None]) -> list[Program]:
    """The different programs that ``programs`` and their schedules hold."""
    pieces = (piece for program in programs for piece in (_of_text(program), *(each for _, each in _pieces(program))))
    return list(dict.fromkeys(piece for piece in pieces if piece is not None))


def _touches(program: Program, site: Site) -> bool:
    return site.name in program.sites and len(program.sites[site.name].index) > 0
