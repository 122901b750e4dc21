"""The policy: one frozen base language model and any number of immutable adapter versions.

A version is the base with one LoRA adapter merged into new tensors, in a module tree of its own. It
never changes, so a reply that started with it ends with it whatever is promoted meanwhile; dropping
a version only forgets it, and its memory goes when the last reply using it ends.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dialog_rl.adapters import merge_adapter
from dialog_rl.bundled import bundled_model_path
from dialog_rl.conversation import BASE_VERSION, SamplingParams
from dialog_rl.decode import Decoded, Runner, decode_batch, decode_stream
from dialog_rl.decode_on import Ask, decode_on
from dialog_rl.errors import PolicyError
from dialog_rl.llama_runner import LlamaRunner
from dialog_rl.precision import Precision, decode_dtype, make_runner
from dialog_rl.prompt_memory import PromptMemory
from dialog_rl.scheduler import DecodeScheduler
from dialog_rl.token_stream import Generation, TokenStream
from reward_models.backbone import keep_layout, merged_copy
from reward_models.chat_template import check_prefix_preserving, check_template, end_of_turn_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

BUNDLED_NAME = "dialog-rl-concierge"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _Version:
    """An immutable module and its decoders, one per precision, made when first needed."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._runners: dict[torch.dtype, Runner] = {}

    def runner(self, dtype: torch.dtype) -> Runner:
        """The decoder; two threads that come first at once may both make it, to no harm."""
        if dtype not in self._runners:
            self._runners[dtype] = make_runner(self.module, dtype)
        return self._runners[dtype]


class Policy:
    """A base model with its tokenizer, its adapter versions, and decoding."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        name: str,
        decode_limit: int = 64,
        precision: Precision = "weights",
    ) -> None:
        """Take over a loaded model; it is frozen and put into evaluation mode.

        Args:
            model: a causal language model.
            tokenizer: with a chat template.
            name: what the base is called in ``base_id``.
            decode_limit: most streamed replies in work at once.
            precision: of replies, where a call does not say; as in :meth:`generate`.

        Raises:
            PolicyError: the chat template cannot be used.
        """
        check_template(tokenizer)
        try:
            check_prefix_preserving(tokenizer)
        except PolicyError as error:
            logger.warning("%s; single replies work, whole-dialogue training will not", error)
        self.model = model.requires_grad_(False)
        self.model.train(False)
        self.tokenizer = tokenizer
        self.device: torch.device = model.device
        self.base_id = f"{name}@{_weights_digest(model)}"
        self.end_ids = _end_ids(model, tokenizer)
        self.precision: Precision = precision
        self.scheduler = DecodeScheduler(limit=decode_limit)
        self._lock = threading.Lock()
        self._versions = {BASE_VERSION: _Version(self.model)}

    @classmethod
    def load(
        cls,
        model_name_or_path: str | Path | None = None,
        *,
        dtype: str = "float32",
        device: str = "auto",
        num_threads: int | None = None,
        precision: Precision = "weights",
    ) -> "Policy":
        """Load a model from a local folder or the Hub, safetensors only, without remote code.

        Args:
            model_name_or_path: folder or Hub id; None is the bundled model.
            dtype: of the weights: float32, bfloat16 or float16.
            device: a torch device, or auto (a GPU if there is one).
            num_threads: CPU threads of torch in this process; None leaves them.
            precision: of replies, where a call does not say; as in :meth:`generate`.

        Raises:
            PolicyError: the model cannot be loaded; says why and what to do.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        if dtype not in _DTYPES:
            raise PolicyError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        source = str(bundled_model_path() if model_name_or_path is None else model_name_or_path)
        name = BUNDLED_NAME if model_name_or_path is None else Path(source).name
        _check_folder(source)
        untyped: Any = transformers_logging
        bars = untyped.is_progress_bar_enabled()
        untyped.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            # Quantised weights are laid out for a device as they are read.
            quantised = getattr(config, "quantization_config", None) is not None
            model: Any = AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=_DTYPES[dtype],
                **({"device_map": {"": device}} if quantised else {}),
            )
            model = model if quantised else model.to(device)
            keep_layout(model)
        except Exception as error:
            # transformers raises every kind of error on a damaged or foreign folder; all of them
            # mean that this model cannot be used, and the text says why.
            raise PolicyError(
                f"cannot load the model {source!r} ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}); give a folder with config.json, "
                "*.safetensors and tokenizer files, or the id of a causal LM on the Hub"
            ) from error
        finally:
            if bars:
                untyped.enable_progress_bar()
        return cls(model, tokenizer, name=name, precision=precision)

    # -- versions ----------------------------------------------------------------------------------

    @property
    def versions(self) -> list[str]:
        """The versions that can answer now, "base" included."""
        with self._lock:
            return list(self._versions)

    def add_version(self, version: str, path: Path) -> None:
        """Read, check and merge an adapter; it becomes visible only when it is whole.

        Adding a version that is already there does nothing: versions are immutable.

        Raises:
            PolicyError: the adapter is incomplete, damaged, unsafe or for another base.
        """
        if version in self.versions:
            return
        module = merge_adapter(Path(path), self.model, self.base_id)
        with self._lock:
            self._versions.setdefault(version, _Version(module))

    def drop_version(self, version: str) -> None:
        """Forget a version; replies that use it end with it. Unknown versions and base are kept."""
        with self._lock:
            if version != BASE_VERSION:
                self._versions.pop(version, None)

    @contextmanager
    def lease(self, version: str) -> Iterator[nn.Module]:
        """The module of a version, usable for as long as the block lasts.

        Raises:
            PolicyError: the version is not loaded.
        """
        yield self._version(version).module

    def _version(self, version: str) -> _Version:
        with self._lock:
            found = self._versions.get(version)
            if found is None:
                raise PolicyError(
                    f"adapter version {version!r} is not loaded (loaded: "
                    f"{', '.join(self._versions)}); add it with add_version first"
                )
            return found

    # -- decoding ----------------------------------------------------------------------------------

    @property
    def decode_groups(self) -> int:
        """Batches that are best decoded apart from one another: one for each core of a CPU."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        seeds: Sequence[int],
        *,
        version: str = BASE_VERSION,
        model: nn.Module | None = None,
        precision: Precision | None = None,
        memory: PromptMemory | None = None,
        runner: Runner | None = None,
    ) -> list[Generation]:
        """Sample one reply per prompt, all prompts together.

        Args:
            prompts: token ids; equal prompts are read once.
            params: how to sample.
            seeds: one per prompt; a reply depends only on its prompt, its seed and the weights
                (exactly so in float32).
            version: which adapter version answers.
            model: a live module instead of a version; a peft model is merged into a copy first.
            precision: of the matrix products on CPU: that of the weights, bfloat16 (the recorded
                log-probabilities are then off by about 0.01), float16 (of the weights only; off by
                about 0.0002), or auto: bfloat16 where this CPU is measured to be faster with it,
                else float16 where it has such products. None is the policy's own.
            memory: of the turns before, made for this version, or for this module with these
                weights; the fast decoder on CPU then reads only what is new.
            runner: made of the live module as it now is, in place of one made here by
                ``precision``.

        Raises:
            PolicyError: the version is unknown, prompts and seeds differ in number, or the memory
                is another model's.
        """
        if len(prompts) != len(seeds):
            raise PolicyError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
        if not prompts:
            return []
        dtype = self._decode_dtype(precision)
        if model is None:
            found = self._version(version)
            owner, runner = found.module, found.runner(dtype)
        else:
            owner, runner = model, runner or make_runner(_plain(model), dtype)
        if memory is not None:
            memory.belong_to(owner)
        decoded = decode_batch(runner, prompts, params, seeds, self.end_ids, memory=memory)
        return [self._generation(said) for said in decoded]

    def generate_on(
        self,
        asks: Sequence[Ask],
        params: SamplingParams,
        respond: Callable[[int, Generation], Ask | None],
        *,
        version: str = BASE_VERSION,
        precision: Precision | None = None,
    ) -> None:
        """Sample replies that lead to further prompts, until nothing is asked any more.

        The fast decoder on CPU puts what is asked next where a reply has ended, and reads only what
        is new in it; others answer round by round.

        Args:
            asks: prompts to begin with; at most as many are in work at once.
            params: how to sample.
            respond: is given the key of a prompt and its reply, returns what is asked next.
            version: which adapter version answers.
            precision: as in :meth:`generate`.

        Raises:
            PolicyError: the version is unknown.
        """
        runner = self._version(version).runner(self._decode_dtype(precision))

        def told(key: int, said: Decoded) -> Ask | None:
            return respond(key, self._generation(said))

        if isinstance(runner, LlamaRunner):
            decode_on(runner, asks, params, self.end_ids, told)
            return
        while asks:
            prompts, seeds = [ask.prompt for ask in asks], [ask.seed for ask in asks]
            decoded = decode_batch(runner, prompts, params, seeds, self.end_ids)
            after = [told(ask.key, said) for ask, said in zip(asks, decoded, strict=True)]
            asks = [ask for ask in after if ask is not None]

    def _decode_dtype(self, precision: Precision | None) -> torch.dtype:
        return decode_dtype(self.model.dtype, precision or self.precision)

    def _generation(self, said: Decoded) -> Generation:
        return Generation(
            ids=said.ids,
            logprobs=said.logprobs,
            text=self.decode_text(said.ids),
            finish_reason=said.finish_reason,
            states=said.states,
            drawn=said.drawn,
        )

    def stream(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        seed: int,
        *,
        version: str = BASE_VERSION,
    ) -> "TokenStream":
        """Sample one reply token by token; the same tokens as ``generate`` with this seed.

        Raises:
            Busy: too many replies are in work.
            PolicyError: the version is unknown.
        """
        runner = self._version(version).runner(self._decode_dtype(None))
        ticket = self.scheduler.submit(
            decode_stream(runner, tuple(prompt), params, seed, self.end_ids)
        )
        return TokenStream(self, ticket, params.max_new_tokens)

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of sampled ids without special tokens and without white space at the ends."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text).strip()


def _plain(module: nn.Module) -> nn.Module:
    """A module without adapter layers: a live peft model is merged into a copy."""
    from peft import PeftModel

    return merged_copy(module) if isinstance(module, PeftModel) else module


def _end_ids(model: Any, tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Tokens after which a reply is over."""
    found: set[int | None] = {end_of_turn_id(tokenizer), tokenizer.eos_token_id}
    config = getattr(model, "generation_config", None)  # transformers': not every model has one
    configured = None if config is None else config.eos_token_id
    found.update(configured if isinstance(configured, list) else [configured])
    return frozenset(int(i) for i in found if i is not None)


def _weights_digest(model: nn.Module) -> str:
    """12 hex digits that name the weights, the same whether loaded in float32 or bfloat16.

    Hashes name, shape and up to 512 evenly spaced values of every parameter: a retrained model
    differs everywhere, and a large one must not be read twice.
    """
    digest = hashlib.sha256()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            flat = parameter.detach().reshape(-1)
            values = flat[:: max(1, flat.numel() // 512)][:512].to("cpu", torch.bfloat16)
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            digest.update(values.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:12]


def _check_folder(source: str) -> None:
    """Say what a local folder lacks before transformers tries the Hub with its name."""
    folder = Path(source)
    if not folder.exists():
        if source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise PolicyError(
                f"there is no model folder {source!r}; give an existing folder or a Hub id"
            )
        return
    if not (folder / "config.json").is_file():
        raise PolicyError(
            f"{source!r} has no config.json; give a folder written by save_pretrained"
        )
    if not any(folder.glob("*.safetensors")):
        raise PolicyError(
            f"{source!r} has no *.safetensors file (pickle weights are never loaded); convert it "
            "with save_pretrained, which writes safetensors"
        )
