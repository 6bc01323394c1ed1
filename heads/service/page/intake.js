// Where images come in: drop, paste, file chooser, folder, camera. Each ends in one call with files.

import { one, open } from "./dom.js";
import { text } from "./messages.js";

const IMAGE_NAME = /\.(jpe?g|png|gif|bmp|webp|tiff?|p[bgnp]m|avif|hei[cf]|hif|j2[ck]|jp[2x])$/i;
const isImage = (file) => file.type.startsWith("image/") || IMAGE_NAME.test(file.name);

export function startIntake(take, sayNothing) {
  const drop = one("#drop");
  const camera = navigator.mediaDevices?.getUserMedia ? one("#camera") : null;

  const takeImages = (files, { only = false } = {}) => {
    const images = only ? files.filter(isImage) : files;
    if (images.length) take(images);
    else sayNothing();
  };

  const depth = { value: 0 };
  const over = (inside) => {
    depth.value = Math.max(0, depth.value + (inside ? 1 : -1));
    drop.classList.toggle("over", depth.value > 0);
    one("strong", drop).textContent = text(depth.value > 0 ? "dropNow" : "dropHere");
  };
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

  // The whole page takes what is dropped, so that a miss does not leave the page.
  document.addEventListener("dragenter", (event) => carriesFiles(event) && over(true));
  document.addEventListener("dragleave", (event) => carriesFiles(event) && over(false));
  document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  document.addEventListener("drop", async (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth.value = 1;
    over(false);
    const { files, folders } = await dropped(event.dataTransfer);
    takeImages(files, { only: folders });
  });

  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter(isImage);
    if (!files.length) return;
    event.preventDefault();
    take(files);
  });

  for (const [button, input] of [["#choose", "#files"], ["#choose-folder", "#folder"]]) {
    one(button).addEventListener("click", () => one(input).click());
  }
  one("#files").addEventListener("change", (event) => {
    takeImages([...event.target.files]);
    event.target.value = "";
  });
  one("#folder").addEventListener("change", (event) => {
    takeImages([...event.target.files], { only: true });
    event.target.value = "";
  });

  // Without a secure context a page may not show the camera; a phone takes the picture itself.
  one("#photo").addEventListener("change", (event) => {
    take([...event.target.files]);
    event.target.value = "";
  });
  one("#camera").addEventListener("click", () => (camera ? startCamera(take) : one("#photo").click()));
}

// Return the files that were dropped, those in folders included.
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return { files: [...transfer.files], folders: false };
  const files = [];
  for (const entry of entries) await collect(entry, files);
  return { files, folders: entries.some((entry) => entry.isDirectory) };
}

async function collect(entry, files) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
    if (file) files.push(file);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)).catch(() => []);
    if (!some.length) return;
    for (const inside of some) await collect(inside, files);
  }
}

let pictures = 0;

async function startCamera(take) {
  const dialog = one("#camera-dialog");
  const video = one("#video");
  const status = one("#camera-status");
  const shoot = one("#shoot");
  shoot.disabled = true;
  status.textContent = text("cameraStarting");
  open(dialog);
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
  } catch (error) {
    status.textContent = text("cameraFailed", error.message || error.name);
    return;
  }
  const stop = () => stream.getTracks().forEach((track) => track.stop());
  if (!dialog.open) return stop();
  video.srcObject = stream;
  await video.play().catch(() => {});
  status.textContent = text("cameraReady");
  shoot.disabled = false;
  shoot.onclick = () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      pictures += 1;
      take([new File([blob], `camera-${pictures}.jpg`, { type: "image/jpeg" })]);
      dialog.close();
    }, "image/jpeg", 0.95);
  };
  dialog.addEventListener("close", () => {
    stop();
    video.srcObject = null;
  }, { once: true });
  return undefined;
}
