// Every text of the page, in each language. A text is a string, or a function of what it says.

const plural = (count, one, many) => (String(count) === "1" ? one : many);

export const MESSAGES = {
  en: {
    skip: "Skip to the results",
    language: "Language",
    title: "Ask every head at once",
    summary: ({ network, heads, rows }) =>
      [network, heads === null ? null : `${heads} ${plural(heads, "head", "heads")}`, rows === null ? null : `${rows} cached ${plural(rows, "image", "images")}`]
        .filter(Boolean).join(" · "),
    intake: "Images",
    dropHere: "Drop images or folders here",
    dropMore: "or paste an image from the clipboard",
    dropNow: "Let go to classify",
    choose: "Choose images",
    chooseFolder: "Choose a folder",
    camera: "Use the camera",
    shoot: "Take the picture",
    cameraStarting: "The camera is starting …",
    cameraReady: "Point the camera at something, then take the picture.",
    cameraFailed: (reason) => `The camera cannot be used: ${reason}. Allow it in the browser, or choose an image file.`,
    nothingDropped: "There was no image in it.",
    results: "Results",
    progress: ({ done, total, failed }) =>
      `${done} of ${total} ${plural(total, "image", "images")}${failed ? `, ${failed} cannot be used` : ""}`,
    busy: ({ seconds }) => `The service is busy; the page asks again in ${seconds} s.`,
    download: "Download CSV",
    clear: "Clear",
    waiting: "waiting",
    asking: "asking",
    failed: "cannot be used",
    retry: "Try again",
    found: {
      network: "new image: one pass",
      memory: "seen before: no pass",
      file: "seen before: no pass",
      cache: "in the cache: no pass",
    },
    agree: ({ count, total }) => (count === total ? `all ${total} heads` : `${count} of ${total} heads`),
    heads: "Answers of the heads",
    version: ({ version }) => `version ${version}`,
    more: ({ count }) => `${count} more`,
    fewer: "Fewer",
    changed: ({ name }) => `was ${name}`,
    network: "What the network itself saw",
    similar: "Most similar cached images",
    similarBy: ({ similarity }) => `similarity ${similarity}`,
    similarNone: "No cached image could be compared.",
    unlabelled: "no label",
    noPicture: "No picture",
    correct: "Correct label",
    correctHint: "A click keeps the right class for training. A second click takes it back.",
    other: "Other …",
    otherLabel: "Another class",
    className: "Class",
    keep: "Keep",
    corrected: ({ name, label, count }) => `${name} is kept as ${label}. ${count} ${plural(count, "correction", "corrections")}.`,
    uncorrected: ({ name, count }) => `The correction of ${name} is taken back. ${count} ${plural(count, "correction", "corrections")}.`,
    inCache: ({ label, split }) => `In the cache as ${label}${split ? `, split ${split}` : ""}.`,
    training: "Train a head",
    trainingLead: ({ corrections, labelled }) =>
      `${labelled} labelled ${plural(labelled, "image", "images")} in the cache, and ${corrections} ${plural(corrections, "correction", "corrections")} by click. The cache itself does not change.`,
    headName: "Head",
    headNew: "A new head of this name.",
    headExchanged: "This head is exchanged when the new version is whole; the old one stays on the disk.",
    headPattern: "Letters, digits, dot, dash and underscore.",
    family: "Family",
    tap: "Tap",
    tapHint: "The layer whose features train the head.",
    train: "Train",
    cancel: "Cancel",
    job: {
      waiting: "waiting for another training",
      running: ({ seconds }) => `training, ${seconds} s`,
      epoch: ({ epoch, loss, accuracy }) => `epoch ${epoch}, loss ${loss}${accuracy ? `, valid accuracy ${accuracy}` : ""}`,
      done: ({ name, version, seconds, rows, accuracy }) =>
        `${name}, version ${version}, answers now: ${rows} training rows, ${accuracy ? `valid accuracy ${accuracy}, ` : ""}${seconds} s`,
      cancelled: "The training was cancelled; nothing has changed.",
      failed: ({ message }) => `The training failed: ${message}`,
      gone: "The service does not know this training any more; it was started again.",
    },
    notReady: (faults) => `The service is not ready: ${faults}.`,
    noHead: "There is no head yet. Train one below from the labelled images of the cache.",
    unreachable: "The service does not answer. Is it still running?",
    api: "API",
    metrics: "Metrics",
    aboutRecipe: "Recipe",
    aboutNetwork: "Network",
    aboutWeights: "Weights",
    aboutCache: "Cache",
    rows: ({ rows, classes }) => `${rows} images, ${classes} classes`,
    tokenTitle: "This service wants a token",
    token: "Token",
    tokenHint: "It is kept until this tab is closed.",
    continue: "Continue",
    close: "Close",
  },
  zh: {
    skip: "跳到结果",
    language: "语言",
    title: "一次询问所有分类头",
    summary: ({ network, heads, rows }) =>
      [network, heads === null ? null : `${heads} 个分类头`, rows === null ? null : `${rows} 张缓存图像`].filter(Boolean).join(" · "),
    intake: "图像",
    dropHere: "把图像或文件夹拖到这里",
    dropMore: "也可以从剪贴板粘贴图像",
    dropNow: "松开即可分类",
    choose: "选择图像",
    chooseFolder: "选择文件夹",
    camera: "使用摄像头",
    shoot: "拍照",
    cameraStarting: "正在打开摄像头……",
    cameraReady: "将摄像头对准目标，然后拍照。",
    cameraFailed: (reason) => `无法使用摄像头：${reason}。请在浏览器中允许使用，或选择图像文件。`,
    nothingDropped: "其中没有图像。",
    results: "结果",
    progress: ({ done, total, failed }) => `已完成 ${done} / ${total} 张${failed ? `，${failed} 张无法使用` : ""}`,
    busy: ({ seconds }) => `服务繁忙，${seconds} 秒后重试。`,
    download: "下载 CSV",
    clear: "清空",
    waiting: "等待中",
    asking: "询问中",
    failed: "无法使用",
    retry: "重试",
    found: {
      network: "新图像：一次前向计算",
      memory: "见过的图像：无需计算",
      file: "见过的图像：无需计算",
      cache: "缓存中已有：无需计算",
    },
    agree: ({ count, total }) => (count === total ? `全部 ${total} 个分类头` : `${total} 个分类头中的 ${count} 个`),
    heads: "各分类头的回答",
    version: ({ version }) => `版本 ${version}`,
    more: ({ count }) => `另外 ${count} 个`,
    fewer: "收起",
    changed: ({ name }) => `之前为 ${name}`,
    network: "网络本身看到的内容",
    similar: "最相似的缓存图像",
    similarBy: ({ similarity }) => `相似度 ${similarity}`,
    similarNone: "没有可比较的缓存图像。",
    unlabelled: "无标签",
    noPicture: "无图",
    correct: "正确的标签",
    correctHint: "点击即保存正确的类别用于训练；再次点击可撤销。",
    other: "其他……",
    otherLabel: "其他类别",
    className: "类别",
    keep: "保存",
    corrected: ({ name, label, count }) => `${name} 已保存为 ${label}。共 ${count} 处更正。`,
    uncorrected: ({ name, count }) => `已撤销对 ${name} 的更正。共 ${count} 处更正。`,
    inCache: ({ label, split }) => `缓存中的标签：${label}${split ? `，${split} 部分` : ""}。`,
    training: "训练分类头",
    trainingLead: ({ corrections, labelled }) => `缓存中有 ${labelled} 张带标签的图像，另有 ${corrections} 处点击更正。缓存本身不会改变。`,
    headName: "分类头",
    headNew: "将以此名称新建分类头。",
    headExchanged: "新版本完成后替换此分类头；旧版本仍保留在磁盘上。",
    headPattern: "字母、数字、点、连字符和下划线。",
    family: "类型",
    tap: "抽取层",
    tapHint: "用哪一层的特征来训练。",
    train: "训练",
    cancel: "取消",
    job: {
      waiting: "等待另一个训练",
      running: ({ seconds }) => `训练中，${seconds} 秒`,
      epoch: ({ epoch, loss, accuracy }) => `第 ${epoch} 轮，损失 ${loss}${accuracy ? `，验证准确率 ${accuracy}` : ""}`,
      done: ({ name, version, seconds, rows, accuracy }) =>
        `${name} 的版本 ${version} 已开始回答：${rows} 行训练数据，${accuracy ? `验证准确率 ${accuracy}，` : ""}${seconds} 秒`,
      cancelled: "训练已取消，没有任何改变。",
      failed: ({ message }) => `训练失败：${message}`,
      gone: "服务已重新启动，不再记得这次训练。",
    },
    notReady: (faults) => `服务尚未就绪：${faults}。`,
    noHead: "还没有分类头。请在下方用缓存中带标签的图像训练一个。",
    unreachable: "服务没有响应。它还在运行吗？",
    api: "API",
    metrics: "指标",
    aboutRecipe: "配方",
    aboutNetwork: "网络",
    aboutWeights: "权重",
    aboutCache: "缓存",
    rows: ({ rows, classes }) => `${rows} 张图像，${classes} 个类别`,
    tokenTitle: "此服务需要令牌",
    token: "令牌",
    tokenHint: "令牌保存到关闭此标签页为止。",
    continue: "继续",
    close: "关闭",
  },
};

const KEPT = "featurecache-language";
let current = chosen();

function chosen() {
  const kept = stored();
  if (kept in MESSAGES) return kept;
  const wanted = navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in MESSAGES);
  return wanted ?? "en";
}

function stored() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null; // storage is switched off
  }
}

export const language = () => current;

export function setLanguage(tag) {
  current = tag;
  try {
    localStorage.setItem(KEPT, tag);
  } catch {
    // the choice lasts as long as the page
  }
  translate();
}

// text("job.done", { … }): a text of the current language.
export function text(key, values) {
  const found = key.split(".").reduce((texts, part) => texts[part], MESSAGES[current]);
  return typeof found === "function" ? found(values) : found;
}

// Write every fixed text of the page in the current language.
export function translate(root = document) {
  document.documentElement.lang = current === "zh" ? "zh-Hans" : current;
  for (const element of root.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of root.querySelectorAll("[data-label]")) element.setAttribute("aria-label", text(element.dataset.label));
  for (const button of root.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === current));
  }
}

export const count = (value) => new Intl.NumberFormat(current).format(value);
export const percent = (value) => new Intl.NumberFormat(current, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 }).format(value);
export const decimal = (value, digits = 3) =>
  value === null || value === undefined ? "" : new Intl.NumberFormat(current, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
